"""Rows: sources, rules, duplicates, reports, shards. Ids are `minimind.tokens`."""
