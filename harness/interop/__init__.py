"""Files of other tools, read and written: FastChat, alpaca_eval."""
