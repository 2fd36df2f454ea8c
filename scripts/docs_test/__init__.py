"""Run the code blocks of the documentation: scripts/docs-test.py is the command."""
