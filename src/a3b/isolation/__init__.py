"""Work that cannot be interrupted, in processes that can be killed: `host` starts them, `worker` is what runs there."""
