"""What boots, and what a booting kernel needs: built from declarations, cached by content."""
