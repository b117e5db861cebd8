"""The coding agent: a client over HTTP that acts through tools, in a sandbox. It never imports the engine.

Enter at `session.open_session`; `events` says what a front end (terminal, headless, editor) is told."""
