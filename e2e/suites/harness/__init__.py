"""What the end-to-end suites share. They run inside the test host, as root; see docs/ for how to start them."""
