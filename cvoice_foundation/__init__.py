"""What every floor stands on: the error that users see, and files written whole or not at all."""
