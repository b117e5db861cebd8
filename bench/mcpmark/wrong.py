"""Prints calls that solve a task of MCPMark but for one mistake, which its verifier has to find."""

from answers import main  # beside this file

if __name__ == "__main__":
    main(is_wrong=True)
