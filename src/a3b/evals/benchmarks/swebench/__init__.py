"""SWE-bench Verified without Docker: checkouts of local clones, environments from registries, tests in the sandbox."""
