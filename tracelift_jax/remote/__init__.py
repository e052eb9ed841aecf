"""Models behind HTTP: how servers are asked, and the executor on one."""
