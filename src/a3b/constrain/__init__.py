"""Which tokens may come next in an answer: grammars of calls and documents, and the processes that follow them."""
