"""Tasks of which a3b-nano has learnt: one module a family, with `case(rng)`, whose `play` has an exact checker, and
`example(rng)`, a conversation that teaches it."""
