"""Entry point of `python -m kdharness.harness.cli`."""

from kdharness.harness.cli import main

main()
