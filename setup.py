"""Refuses any installation but an editable one: the sample and the evidence are found beside the modules, in the
clone.
"""

from setuptools import setup
from setuptools.command.build_py import build_py


class EditableOnly(build_py):
    """Part of every build; pip has an editable one say so."""

    def run(self) -> None:
        """Raise SystemExit, with the way on, for an installation that would leave the data behind."""
        if not self.editable_mode:
            raise SystemExit(
                "cnn-and-deep-network is used from its clone, which holds the sample and the records: pip install -e ."
            )
        super().run()


setup(cmdclass={"build_py": EditableOnly})
