"""The five published APIs: one suite over all, and what is particular to each."""
