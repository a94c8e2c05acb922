"""What the command line takes and prints."""
