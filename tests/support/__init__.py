"""What tests share: builders of rows and files, servers on the loopback, tiny models."""
