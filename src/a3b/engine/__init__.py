"""From a request to a stream of events: the service, its backend (the scheduler), one generation, the sampler."""
