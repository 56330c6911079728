"""The two stacks, a module for each noun of theirs."""
