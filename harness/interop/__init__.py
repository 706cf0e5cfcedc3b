"""Import and export of other tools' files: FastChat, alpaca_eval."""
