"""The rights of a person: to be erased, and to be told what is held.

    who is it? ─► person ─► markers on events.raw ─► the legs ─► places: where is a readable copy left?
                     └────► held: everything that is stored of that person, opened

What is done here is written to `access.audit` first.
"""
