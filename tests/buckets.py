"""Object storage for tests: an S3 of moto's, on loopback.

moto may sit in another environment, whose Python `ZHAIJU_MOTO_PYTHON` names: its libraries pin older versions of ours.
"""

import os
import subprocess
import sys

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
MOTO = os.environ.get("ZHAIJU_MOTO_PYTHON", sys.executable)
SERVER = """
import sys, boto3
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]))
server.start()
address = "http://127.0.0.1:%d" % server.get_host_and_port()[1]
boto3.client("s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="key",
             aws_secret_access_key="secret").create_bucket(Bucket="bucket")
print("at", address, flush=True)
sys.stdin.read()
"""


def start(port=0):
    """An S3 with a bucket "bucket", and its address; it ends when its stdin is closed. Skips where there is no moto."""
    process = subprocess.Popen(
        [MOTO, "-c", SERVER, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        text=True,
    )
    address = next((line.split()[1] for line in process.stdout if line.startswith("at ")), None)
    if address is None:
        process.communicate()
        pytest.skip("moto's server is not installed: pip install 'moto[server]'")
    return process, address


def point(monkeypatch, address):
    """Have every client of S3 ask there."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true"}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def server():
    """The address of an S3 that all tests share."""
    process, address = start()
    yield address
    process.communicate()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """An address that nothing is at yet."""
    point(monkeypatch, server)
    return f"s3://bucket/{tmp_path.name}/index"


@pytest.fixture
def own_server(monkeypatch):
    """An S3 that a test may end."""
    process, address = start()
    point(monkeypatch, address)
    yield process
    if process.poll() is None:
        process.communicate()
