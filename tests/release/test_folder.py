"""`fusion publish` into a folder."""


def test_it(project):
    print("\n".join(project.publish()))
    print(project.git("tag", "-n"))
    print((project.root / "published/fusion/FUSION-Tiny-Stage1/README.md").read_text())
    print((project.root / "published/fusion/FUSION-Tiny/README.md").read_text()[-3000:])
    import subprocess

    print(subprocess.run(["find", str(project.root / "published")], capture_output=True, text=True).stdout)
    print("\n".join(project.publish()))
