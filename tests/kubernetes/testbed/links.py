"""An image without a file, for pods whose programs are their node's own."""

from images import make_image


def make_links_image(name, folder):
    """Links to the programs of /usr, which a pod mounts from its node, with /etc/alternatives: so Python and what it imports
    need no image of a gigabyte. Returns its archive in `folder`."""
    root = folder / "links"
    for inside in ("etc", "tmp", "usr"):
        (root / inside).mkdir(parents=True)
    for inside in ("bin", "sbin", "lib", "lib64"):
        (root / inside).symlink_to(f"usr/{inside}")
    archive = root.with_suffix(".tar")
    make_image(name, root, ["bash"], archive)
    return archive
