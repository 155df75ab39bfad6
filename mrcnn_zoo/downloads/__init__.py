"""Files by address: fetched once, checked, and kept in a cache."""
