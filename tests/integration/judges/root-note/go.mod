module stele.example/root-note

go 1.27.0

require golang.org/x/mod v0.43.0
