"""Prints the calls that solve a task of MCPMark: `a3b eval mcpmark --set solver=bench/mcpmark/known.py`."""

from answers import main  # beside this file

if __name__ == "__main__":
    main(is_wrong=False)
