"""Opinion monitoring: what a stream of texts is about and how it is meant, as Prometheus metrics, and an alert on a surge of complaints."""
