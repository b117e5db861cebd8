"""One module for each benchmark; `a3b.evals.roster` names them."""
