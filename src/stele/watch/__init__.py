"""Watch: notice. `detect` is pure and decides; `gate`, `parker` and `sensor` are its ears.

Yields `Report` records; never acts beyond refusing and freezing the offender.
"""
