"""What was said and thought in earlier sessions of a directory, to be searched, and to be forgotten. Enter at
`search_index.SearchIndex` and `forgetting.forget_sessions`."""
