"""What tests share: builders of rows and files, servers on the loopback, tiny models.

Test files import from here (`from support.loopback import Loopback`), never from each other;
fixtures are in the `conftest.py` of the room that needs them.

- Models: `models`, `adapters`, `look_alikes`, `pickles`, `chat_templates`.
- Training: `configs`, `experiments`, `workers`, `reporters`, `training_steps`, `reference_step`
  (written apart from the code under test).
- Rows and files: `files`, `chat_rows`, `labels`, `benchmark_files`, `result_files`, `wheels`,
  `mutations`, `planted_keys`, `published`, `locations`.
- Stores: `store_rows`, `scored_store`, `tui_home`.
- Servers: `loopback` with `openai_calls` and `evaluations`, `hub_server`.
- Programs: `commands`, `app`, `terminal`, `waiting`, `environment`, `soak`.
- Statistics: `interval_coverage`, which also writes the table in docs/judges.md.
"""
