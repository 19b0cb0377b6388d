"""TLS and tokens of a real server."""

import os
import re
from contextlib import contextmanager
from hashlib import sha256
from queue import SimpleQueue

import grpc
import pytest
import trustme
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from lemmse.contract.errors import InvalidArgument, PermissionDenied, Unauthenticated
from lemmse.server.access import check_access
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from lemmse.server.tls import server_credentials
from lemmse.server.tokens import Tokens, add_token
from lemmse.v1 import admin_pb2, admin_pb2_grpc, index_pb2, index_pb2_grpc
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from tests.support.requests import request


@contextmanager
def running(index, **settings):
    server = Server(ServerConfig(indexes=(index,), listen="127.0.0.1:0", threads=1, **settings))
    try:
        yield server.address
    finally:
        server.stop(0)


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


def code(call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    return caught.value.code()


@pytest.fixture(scope="module")
def guarded(tiny_index, tmp_path_factory):
    """A server that wants tokens, its file and a token of each role."""
    path = tmp_path_factory.mktemp("guarded") / "tokens"
    read, admin = add_token(path, "read"), add_token(path, "admin")
    with running(tiny_index, tokens=path) as address, grpc.insecure_channel(address) as channel:
        yield channel, path, read, admin


def test_calls_need_a_token(guarded):
    channel, _, read, admin = guarded
    stub = ReconstructionServiceStub(channel)
    for token in (read, admin):
        assert stub.Reconstruct(request(), metadata=bearer(token)).HasField("image")
    wrong = [
        None,
        bearer(read + "x"),
        bearer(""),
        (("authorization", read),),
        (("authorization", f"Basic {read}"),),
        bearer(read) * 2,
    ]
    for metadata in wrong:
        assert code(stub.Reconstruct, request(), metadata=metadata) is grpc.StatusCode.UNAUTHENTICATED


def test_a_stream_without_a_token_ends_before_it_is_read(guarded):
    channel, *_ = guarded
    requests = SimpleQueue()
    answers = ReconstructionServiceStub(channel).ReconstructStream(iter(requests.get, None), timeout=10)
    assert code(next, answers) is grpc.StatusCode.UNAUTHENTICATED
    requests.put(None)


def test_health_needs_no_token_and_reflection_does(guarded):
    channel, _, read, _ = guarded
    assert HealthStub(channel).Check(HealthCheckRequest()).status == HealthCheckResponse.SERVING
    reflect = ServerReflectionStub(channel).ServerReflectionInfo
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    assert code(next, reflect(iter([asked]))) is grpc.StatusCode.UNAUTHENTICATED
    (answer,) = reflect(iter([asked]), metadata=bearer(read))
    assert answer.list_services_response.service


def test_only_the_role_admin_may_change_the_indexes(guarded, server):
    channel, _, read, admin = guarded
    unload, unknown = (
        admin_pb2_grpc.AdminServiceStub(channel).UnloadIndex,
        admin_pb2.UnloadIndexRequest(name="nope"),
    )
    assert code(unload, unknown) is grpc.StatusCode.UNAUTHENTICATED
    assert code(unload, unknown, metadata=bearer(read)) is grpc.StatusCode.PERMISSION_DENIED
    assert code(unload, unknown, metadata=bearer(admin)) is grpc.StatusCode.NOT_FOUND
    with grpc.insecure_channel(server.address) as without_tokens:
        unload = admin_pb2_grpc.AdminServiceStub(without_tokens).UnloadIndex
        assert code(unload, unknown) is grpc.StatusCode.PERMISSION_DENIED


def test_tokens_are_added_and_revoked_while_it_runs(guarded):
    channel, path, *_ = guarded
    listing = index_pb2_grpc.IndexServiceStub(channel).ListIndexes
    token = add_token(path, "read")
    assert listing(index_pb2.ListIndexesRequest(), metadata=bearer(token)).indexes
    kept = path.read_text().splitlines()[:-1]
    path.write_text("\n".join(kept) + "\n")
    assert code(listing, index_pb2.ListIndexesRequest(), metadata=bearer(token)) is (
        grpc.StatusCode.UNAUTHENTICATED
    )


def test_a_file_that_becomes_invalid_or_vanishes_changes_nothing(tmp_path, caplog):
    path = tmp_path / "tokens"
    token = add_token(path, "admin")
    tokens, good = Tokens(path), path.read_text()
    path.write_text("admin 12\n")
    assert tokens.find(token).role == "admin"
    assert f"{path}, line 1: expected read or admin, and a SHA-256" in caplog.text
    path.unlink()
    assert tokens.find(token).role == "admin"
    path.write_text(good.replace("admin", "read"))
    assert tokens.find(token).role == "read"


def test_a_file_that_is_being_written_changes_nothing(tmp_path):
    path = _with(tmp_path / "tokens", "read")
    tokens = Tokens(path)
    for left in ("", path.read_text()[:-10]):  # emptied, and written in part
        path.write_text(left)
        assert tokens.find("secret").role == "read"
    path.write_text("# nobody\n")
    assert tokens.find("secret") is None
    _with(path, "admin")
    assert tokens.find("secret").role == "admin"
    path.write_text("")
    assert tokens.find("secret").role == "admin"
    long_ago = path.stat().st_mtime - 60
    os.utime(path, (long_ago, long_ago))
    assert tokens.find("secret") is None


def test_a_file_that_is_missing_at_the_start(tmp_path):
    with pytest.raises(
        InvalidArgument, match=r"^tokens: cannot read .*: No such file.*`lemmse token` makes it"
    ):
        Tokens(tmp_path / "tokens")
    with pytest.raises(InvalidArgument, match=r"^tokens: cannot read .*: Is a directory$"):
        Tokens(tmp_path)


def test_admin_calls():
    check = "lemmse.v1.AdminService"
    with pytest.raises(PermissionDenied, match="without --tokens"):
        check_access(None, check, ())
    check_access(None, "lemmse.v1.IndexService", ())


def test_roles(tmp_path):
    tokens = Tokens(_with(tmp_path / "t", "read")), Tokens(_with(tmp_path / "u", "admin"))
    for held, service, error in [
        (tokens[0], "lemmse.v1.AdminService", PermissionDenied),
        (tokens[0], "lemmse.v1.IndexService", None),
        (tokens[1], "lemmse.v1.AdminService", None),
        (tokens[1], "lemmse.v1.IndexService", None),
    ]:
        if error is None:
            assert check_access(held, service, bearer("secret")) == sha256(b"secret").hexdigest()[:12]
        else:
            with pytest.raises(error, match="role admin"):
                check_access(held, service, bearer("secret"))
        with pytest.raises(Unauthenticated):
            check_access(held, service, ())
        check_access(held, "grpc.health.v1.Health", ())


def _with(path, role):
    path.write_text(f"# who\n\n{role} {sha256(b'secret').hexdigest()}\n")
    return path


def test_a_new_token_is_random_and_only_its_hash_is_kept(tmp_path):
    path = tmp_path / "tokens"
    before = os.umask(0)
    try:
        made = [add_token(path, "read"), add_token(path, "admin")]
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(set(made)) == 2
    for token in made:
        assert re.fullmatch(r"lemmse_[A-Za-z0-9_-]{43}", token)
        assert token not in path.read_text()
    assert [line.split()[0] for line in path.read_text().splitlines()] == ["read", "admin"]
    assert [Tokens(path).find(token).role for token in made] == ["read", "admin"]


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "notes"
    path.write_text("admin is on holiday\n")
    with pytest.raises(InvalidArgument, match="line 1: expected read or admin, and a SHA-256"):
        add_token(path, "read")
    assert path.read_text() == "admin is on holiday\n"


def test_a_last_line_without_an_end(tmp_path):
    path = _with(tmp_path / "tokens", "read")
    path.write_text(path.read_text().rstrip("\n"))
    assert Tokens(path).find(add_token(path, "admin")).role == "admin"
    assert Tokens(path).find("secret").role == "read"


class Authority:
    """A certificate authority, and certificates of 127.0.0.1 that it has signed, in a folder."""

    def __init__(self, folder):
        self.ca, self.folder = trustme.CA(), folder
        self.root = self.ca.cert_pem.bytes()
        self.ca.cert_pem.write_to_path(folder / "ca.pem")
        self.renew()

    def renew(self):
        leaf = self.ca.issue_cert("127.0.0.1")
        leaf.private_key_pem.write_to_path(self.folder / "key.pem")
        self.chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        (self.folder / "cert.pem").write_bytes(self.chain)

    @property
    def files(self):
        return {"tls_cert": self.folder / "cert.pem", "tls_key": self.folder / "key.pem"}


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def health(address, credentials):
    """The status over a new connection."""
    # Without a pool of its own, channels to one address share a connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address, credentials, options) as channel:
        return HealthStub(channel).Check(HealthCheckRequest(), timeout=10).status


def test_tls_and_a_new_certificate(authority, tiny_index, tmp_path):
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    with running(tiny_index, **authority.files) as address:
        with grpc.insecure_channel(address) as plain:
            check = HealthStub(plain).Check
            assert code(check, HealthCheckRequest(), timeout=10) is grpc.StatusCode.UNAVAILABLE
        old, new = (grpc.ssl_channel_credentials(ca.root) for ca in (authority, other))
        assert health(address, old) == HealthCheckResponse.SERVING
        # A certificate without its key changes nothing.
        authority.files["tls_cert"].write_bytes(other.files["tls_cert"].read_bytes())
        assert health(address, old) == HealthCheckResponse.SERVING
        authority.files["tls_key"].write_bytes(other.files["tls_key"].read_bytes())
        assert health(address, new) == HealthCheckResponse.SERVING
        assert code(health, address, old) is grpc.StatusCode.UNAVAILABLE


def test_a_client_needs_a_certificate_of_the_authority(authority, tiny_index, tmp_path):
    (tmp_path / "client").mkdir()
    client = Authority(tmp_path / "client")
    ca = tmp_path / "client" / "ca.pem"
    with running(tiny_index, **authority.files, tls_client_ca=ca) as address:
        for holder, known in [(client, True), (authority, False)]:
            held = grpc.ssl_channel_credentials(
                authority.root, holder.files["tls_key"].read_bytes(), holder.chain
            )
            if known:
                assert health(address, held) == HealthCheckResponse.SERVING
            else:
                assert code(health, address, held) is grpc.StatusCode.UNAVAILABLE
        bare = grpc.ssl_channel_credentials(authority.root)
        assert code(health, address, bare) is grpc.StatusCode.UNAVAILABLE


def test_what_is_wrong_with_the_files_is_said(authority, tmp_path):
    cert, key = authority.files.values()
    with pytest.raises(InvalidArgument, match=r"^tls-key: cannot read .*: No such file"):
        server_credentials(cert, tmp_path / "none", None)
    with pytest.raises(
        InvalidArgument, match=r"^tls-cert: expected a certificate in .* and its private key in"
    ):
        server_credentials(key, cert, None)
    authority.renew()
    cert.write_bytes(trustme.CA().cert_pem.bytes())
    with pytest.raises(InvalidArgument, match="key values mismatch"):
        server_credentials(cert, key, None)
    authority.renew()
    with pytest.raises(InvalidArgument, match=r"^tls-client-ca: expected certificates in"):
        server_credentials(cert, key, key)
