"""A store kept in order: what it can do without (`removal`), what is wrong in it (`damage`), and mending that."""
