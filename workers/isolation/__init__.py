"""The boundary to user code: what a step prints, changes, starts and uses stays that step's."""
