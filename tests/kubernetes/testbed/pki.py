"""A testbed's certificates, tokens and kubeconfigs."""

import base64
import json
import secrets

from host import run

DAYS = "30"


def _key(folder, name):
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / f"{name}.key")


def _signed(folder, name, subject, extensions):
    _key(folder, name)
    request = run("openssl", "req", "-new", "-key", folder / f"{name}.key", "-subj", subject)
    (folder / f"{name}.ext").write_text(extensions)
    run(
        "openssl", "x509", "-req", "-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", DAYS,
        "-extfile", folder / f"{name}.ext", "-out", folder / f"{name}.crt", input=request,
    )  # fmt: skip


def make(folder, addresses, names):
    """The authority, the API server's certificate for these, the administrator's, and the key of service accounts."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    _key(folder, "ca")
    run(
        "openssl", "req", "-x509", "-new", "-key", folder / "ca.key", "-subj", "/CN=testbed", "-days", DAYS,
        "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", folder / "ca.crt",
    )  # fmt: skip
    known = [f"IP:{address}" for address in addresses] + [f"DNS:{name}" for name in names]
    _signed(folder, "apiserver", "/CN=kube-apiserver", f"subjectAltName={','.join(known)}\nextendedKeyUsage=serverAuth\n")
    _signed(folder, "admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth\n")
    run("openssl", "genrsa", "-out", folder / "service-accounts.key", "2048")
    run("openssl", "rsa", "-in", folder / "service-accounts.key", "-pubout", "-out", folder / "service-accounts.pub")


def _kubeconfig(server, authority, user):
    """As JSON, which is YAML too."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "user"}}],
        "current-context": "testbed",
    }
    return json.dumps(config, indent=1) + "\n"


def make_users(folder, users, server_of):
    """A kubeconfig with a token for each of `users`, {file name: (user, group)}, and the file that the API server reads
    them from. `server_of(file name)` is where that user finds the API server."""
    authority = base64.b64encode((folder / "ca.crt").read_bytes()).decode()
    lines = []
    for file, (user, group) in users.items():
        token = secrets.token_hex(16)
        lines.append(f'{token},{user},{user},"{group}"\n')
        path = folder / f"{file}.kubeconfig"
        path.write_text(_kubeconfig(server_of(file), authority, {"token": token}))
        path.chmod(0o600)
    (folder / "tokens.csv").write_text("".join(lines))


def admin_kubeconfig(folder, server):
    data = {name: base64.b64encode((folder / name).read_bytes()).decode() for name in ("ca.crt", "admin.crt", "admin.key")}
    user = {"client-certificate-data": data["admin.crt"], "client-key-data": data["admin.key"]}
    return _kubeconfig(server, data["ca.crt"], user)
