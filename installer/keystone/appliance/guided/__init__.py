"""The guided way from the installer medium to a Primer or worker: answers that are a file.

draft.py is what a Primer's answers are, worker.py a worker's, answers.py what is shown and said,
questions.py what is asked and in which order, screens.py how it looks on a terminal, session.py
what it reads and writes on this machine and on the stick.
"""
