"""What a Python program does with the etcd3 package, which speaks gRPC. Arguments: host and port of one member."""

import sys

import etcd3

HOST, PORT = sys.argv[1], int(sys.argv[2])


def main():
    client = etcd3.client(host=HOST, port=PORT, timeout=20)

    # Keys.
    client.delete_prefix("py/")
    client.put("py/a", "1")
    client.put("py/b", "2")
    value, meta = client.get("py/a")
    assert (value, meta.key, meta.version) == (b"1", b"py/a", 1), (value, meta)
    assert client.get("py/none") == (None, None)
    found = [(meta.key, value) for value, meta in client.get_prefix("py/", sort_order="descend")]
    assert found == [(b"py/b", b"2"), (b"py/a", b"1")], found
    assert client.replace("py/a", "1", "one") and not client.replace("py/a", "1", "two")
    assert client.put_if_not_exists("py/c", "3") and not client.put_if_not_exists("py/c", "4")
    assert client.delete("py/c") and not client.delete("py/c")

    # A transaction, with what each operation answered.
    succeeded, answers = client.transaction(
        compare=[client.transactions.value("py/a") == "one", client.transactions.version("py/a") > 1],
        success=[client.transactions.put("py/a", "uno"), client.transactions.get("py/a")],
        failure=[client.transactions.delete("py/a")],
    )
    assert succeeded and answers[1][0][0] == b"uno", (succeeded, answers)

    # A watch, through its own thread: every change once, in order, and no more after it was cancelled.
    events, cancel = client.watch_prefix("py/w")
    for n in range(20):
        client.put(f"py/w{n % 3}", str(n))
    client.delete("py/w0")
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, etcd3.events.DeleteEvent):
            break
    cancel()
    assert [event.value for event in seen[:-1]] == [str(n).encode() for n in range(20)], seen
    revisions = [event.mod_revision for event in seen]
    assert revisions == sorted(set(revisions)), revisions
    # From a revision of the past.
    events, cancel = client.watch_prefix("py/w", start_revision=revisions[0])
    assert [next(events).value for _ in range(20)] == [str(n).encode() for n in range(20)]
    cancel()
    # A history that is gone says so, and from where on there is one.
    client.compact(revisions[5])
    events, cancel = client.watch("py/w1", start_revision=revisions[0])
    try:
        next(events)
        raise AssertionError("there is no history to watch")
    except etcd3.exceptions.RevisionCompactedError as error:
        assert error.compacted_revision == revisions[5], error.compacted_revision

    # Leases and the locks that are made of them.
    lease = client.lease(60)
    client.put("py/leased", "x", lease=lease)
    assert lease.granted_ttl == 60 and 0 < lease.remaining_ttl <= 60 and lease.keys == [b"py/leased"]
    assert [answer.TTL for answer in lease.refresh()] == [60]
    lease.revoke()
    assert client.get("py/leased") == (None, None)
    first, second = client.lock("py", ttl=60), client.lock("py", ttl=60)
    assert first.acquire() and first.is_acquired()
    assert not second.acquire(timeout=0.5)
    assert first.release() and second.acquire(timeout=20) and second.release()

    # The cluster.
    members = list(client.members)
    assert len(members) == 3 and all(member.name and member.client_urls for member in members)
    status = client.status()
    assert status.leader.id in [member.id for member in members] and status.raft_index > 0
    assert list(client.list_alarms()) == []
    client.defragment()
    client.close()


main()
print("done")
