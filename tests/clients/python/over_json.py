"""What a Python program does with the etcd3gw package, which speaks JSON over HTTP/1.1 (as OpenStack's services do).
Arguments: host and port of one member."""

import sys
import threading

import etcd3gw

HOST, PORT = sys.argv[1], int(sys.argv[2])


def main():
    client = etcd3gw.Etcd3Client(host=HOST, port=PORT, api_path="/v3/", timeout=20)

    # Keys.
    client.delete_prefix("gw/")
    assert client.put("gw/a", "1") and client.put("gw/b", b"\x00\xff binary")
    assert client.get("gw/a") == [b"1"] and client.get("gw/none") == []
    [(value, meta)] = client.get("gw/b", metadata=True)
    assert value == b"\x00\xff binary" and meta["version"] == "1", (value, meta)
    found = [meta["key"] for _, meta in client.get_prefix("gw/", sort_order="descend", sort_target="key")]
    assert found == [b"gw/b", b"gw/a"], found
    assert client.create("gw/c", "3") and not client.create("gw/c", "4")
    assert client.replace("gw/c", "3", "5") and not client.replace("gw/c", "3", "6")
    assert client.delete("gw/c") and not client.delete("gw/c")

    # A watch: a request that is answered line by line, read by a thread.
    events, cancel = client.watch_prefix("gw/w")
    seen = []

    def read():
        for event in events:
            seen.append(event)
            if event.get("type") == "DELETE":
                return

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(10):
        client.put("gw/w", str(n))
    client.delete("gw/w")
    reader.join(timeout=20)
    assert not reader.is_alive(), seen
    cancel()
    assert [event["kv"]["value"] for event in seen[:-1]] == [str(n).encode() for n in range(10)], seen
    once = []
    waiting = threading.Thread(target=lambda: once.append(client.watch_once("gw/once", timeout=20)))
    waiting.start()
    while waiting.is_alive():
        client.put("gw/once", "x")
        waiting.join(timeout=0.05)
    assert once[0]["kv"]["key"] == b"gw/once", once

    # Leases and the locks that are made of them.
    lease = client.lease(ttl=60)
    assert client.put("gw/leased", "x", lease=lease)
    assert 0 < lease.ttl() <= 60 and lease.refresh() == 60 and lease.keys() == [b"gw/leased"]
    assert lease.revoke() and client.get("gw/leased") == []
    first, second = client.lock(id="gw", ttl=60), client.lock(id="gw", ttl=60)
    assert first.acquire() and first.is_acquired() and not second.acquire()
    assert first.release() and second.acquire() and second.release()

    # The cluster.
    assert len(client.members()) == 3
    status = client.status()
    assert int(status["raftIndex"]) > 0 and status["leader"], status
    try:
        client.post(client.get_url("/kv/range"), json={"key": "not base64!"})
        raise AssertionError("that is no key")
    except etcd3gw.exceptions.Etcd3Exception as error:
        assert '"code"' in error.detail_text, error.detail_text


main()
print("done")
