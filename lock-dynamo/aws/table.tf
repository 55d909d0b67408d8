# The lock table of onelock's native schema.

variable "name" {
  description = "The table's name, as in dynamodb://NAME"
  type        = string
  default     = "locks"
}

resource "aws_dynamodb_table" "locks" {
  name         = var.name
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "key"

  attribute {
    name = "key"
    type = "S"
  }

  ttl {
    attribute_name = "collect_at"
    enabled        = true
  }

  deletion_protection_enabled = true
}
