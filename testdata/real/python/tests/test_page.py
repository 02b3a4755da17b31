import unittest

from app.page import render


class RenderTest(unittest.TestCase):
    def test_names_the_version(self):
        self.assertIn("<h1>Casks 1.0</h1>", render(version="1.0", user="app"))
