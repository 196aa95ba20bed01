"""What a method reads beside the expert."""
