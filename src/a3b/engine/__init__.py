"""From a request to a stream of events: the service, the scheduler, one generation, the sampler."""
