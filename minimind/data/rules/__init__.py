"""Rules: what makes a text better or unwanted. `catalog` lists them in order; `settings` has their switches."""
