"""What every API and every engine agree on: requests, events, sampling parameters."""
