"""Guided installation from the installer medium: a person's answers become a file on the stick.

answers.py has the types, draft.py a Primer's answers as a site file, worker.py a worker's answers
as a join.yaml. questions.py asks the questions in their order, screens.py draws them on a terminal,
and session.py reads and writes this machine and the stick.
"""
