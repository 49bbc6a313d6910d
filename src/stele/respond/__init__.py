"""Respond: what to do about a violation (`decide`, pure), and collecting evidence (`collect`).

Does not thaw, kill or record: `flow` orders the steps and appends the events.
"""
