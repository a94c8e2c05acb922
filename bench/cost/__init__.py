"""What each row of a suite costs: milliseconds per step by phase, memory, parameters and arithmetic."""
