# The peers in Python: a pool of two processes that answers to lines on standard input.
import sys


def empty(_):
    return None


def echo(data):
    return data


def executor():
    from concurrent.futures import ProcessPoolExecutor

    pool = ProcessPoolExecutor(2)

    def call(n):
        for _ in range(n):
            pool.submit(echo, b"x" * 100).result()

    def many(n):
        for _ in pool.map(empty, range(n)):
            pass

    return call, many, pool.shutdown


def dask():
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    client = Client(cluster)

    def call(n):
        for _ in range(n):
            client.submit(echo, b"x" * 100, pure=False).result()

    def many(n):
        client.gather(client.map(empty, range(n), pure=False))

    def close():
        client.close()
        cluster.close()

    return call, many, close


if __name__ == "__main__":
    call, many, close = {"ProcessPoolExecutor": executor, "dask.distributed": dask}[sys.argv[1]]()
    call(1)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "call":
            call(int(words[1]))
        elif words[0] == "map":
            many(int(words[1]))
        print("done", flush=True)
    close()
