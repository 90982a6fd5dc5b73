"""The roster, kept as one document under a key of Ray's own store.

So it outlives the processes that go by it: `fleet`, which writes it, and the selector, which reads it when it starts
anew. A cluster that is brought up again begins with its configuration: the key carries an id of the bring-up.
"""

from __future__ import annotations

from ray.experimental import internal_kv

from paceline.cluster.roster import Roster

_STORE = "paceline-roster"


def load_roster(key: str) -> Roster | None:
    """What was last saved under a key; None where nothing was."""
    saved = internal_kv._internal_kv_get(key, namespace=_STORE)
    return None if saved is None else Roster.model_validate_json(saved)


def save_roster(key: str, roster: Roster) -> None:
    """Save, in place of what was saved before under the key."""
    internal_kv._internal_kv_put(key, roster.model_dump_json(), overwrite=True, namespace=_STORE)


def forget_other_rosters(key: str) -> None:
    """Drop what earlier bring-ups of the same application saved: the key's part before the last `/` is the same."""
    prefix = key.rpartition("/")[0] + "/"
    for found in internal_kv._internal_kv_list(prefix, namespace=_STORE):
        if found != key.encode():
            internal_kv._internal_kv_del(found, namespace=_STORE)
