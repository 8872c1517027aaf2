"""Allows only an editable installation, since the sample and the evidence lie beside the modules, in the clone."""

from setuptools import setup
from setuptools.command.build_py import build_py


class EditableOnly(build_py):
    """A step of every build, which knows whether the installation is editable."""

    def run(self) -> None:
        """Raise SystemExit, with the remedy, for an installation that would leave the data behind."""
        if not self.editable_mode:
            raise SystemExit(
                "cnn-and-deep-network is used from its clone, which holds the sample and the records: pip install -e ."
            )
        super().run()


setup(cmdclass={"build_py": EditableOnly})
