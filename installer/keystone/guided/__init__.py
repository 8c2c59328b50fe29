"""The guided way from the installer medium to a Primer: questions whose answers are a site file.

draft.py is what the answers are, questions.py what is asked and in which order, screens.py how it
looks on a terminal, session.py what it reads and writes on this machine and on the stick.
"""
