"""What a site does with a bundle inside: taken in, held, published, served."""
