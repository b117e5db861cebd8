"""Which tokens an answer may go on with: grammars of calls and documents, and the processes that follow them."""
