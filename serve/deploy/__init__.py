"""What `fmx deploy` writes: an image's folder, Compose, Kubernetes, Prometheus and Grafana files that fit one package and its capacity."""
