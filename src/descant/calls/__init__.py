"""What a caller hands in, made rows: options, prompts, and the rows of one call driven through the engine."""
